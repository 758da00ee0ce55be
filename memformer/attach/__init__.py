"""How a memory is joined to a decoder: the places to attach, the added layers, the calibration."""
