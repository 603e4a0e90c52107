"""The only room that knows devices, processes, gradients and files of a run in progress."""
