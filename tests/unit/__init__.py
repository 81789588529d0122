"""One file per module of the lower floors and the control side; no broker is started."""
