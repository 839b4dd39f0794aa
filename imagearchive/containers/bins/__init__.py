"""Split bins, the format of splitdataloader: scanning and writing."""
