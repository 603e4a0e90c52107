"""The scores that look at data, each as it goes through a network."""
