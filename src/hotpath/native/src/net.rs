//! Sockets without the stream layers in between (stream T).
