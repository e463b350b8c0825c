"""One module per command group: options, typed request, one library call, render."""
