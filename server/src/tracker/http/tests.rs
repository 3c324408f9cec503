//! The HTTP front end over real sockets, and its translation.
