"""Street scenes drawn at random in the Cityscapes layout: the corpus of the demo and of the tests."""
