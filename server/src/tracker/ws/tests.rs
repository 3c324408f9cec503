//! The web sockets over real connections.
