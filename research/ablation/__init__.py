"""What each part of CALICO is worth: small models trained alike, but for one part."""
