HEAD: str
ENTRY: str
WHOLE_FLAG: int
