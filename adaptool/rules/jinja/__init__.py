"""Chat templates, parsed by Jinja and never rendered; imported only where there is one, since Jinja is."""
