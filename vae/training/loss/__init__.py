"""What is minimised: the loss of each image, and what changes it as a run goes on."""
