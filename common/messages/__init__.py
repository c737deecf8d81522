"""Everything that is sent: the messages, their two encodings (Flower records, socket frames) and compression.

Their meaning is checked by the receiver.
"""
