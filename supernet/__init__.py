"""The supernet: a weight-shared family of BERTs, its training and its data. The torch world."""
