"""MRD streaming: a scanner sends its acquisitions over TCP, as to a Gadgetron, and gets images back."""
