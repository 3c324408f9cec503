//! The UDP front end over real sockets.
