"""What lies in an adapter's folder: listed, identified and read within bounds; facts that the rules ask."""
