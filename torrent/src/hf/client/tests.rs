//! The client against a hub that answers what no hub should.
