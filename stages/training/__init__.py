"""The one training loop, its optimizer, its state and its selection of weights."""
