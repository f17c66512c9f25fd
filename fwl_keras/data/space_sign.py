"""SentencePiece's sign for a space."""

# SentencePiece writes a space as this sign, and would take the sign in a text for a space. It is
# encoded as its bytes instead, which come back as the sign: they are decoded after the spaces.
SPACE_SIGN = "\u2581"
SPACE_SIGN_PIECES = tuple(f"<0x{byte:02X}>" for byte in SPACE_SIGN.encode("utf-8"))
