//! What the end-to-end tests share: a world for each test, drivers of the binary under test and of other people's
//! clients, and ways of reading. Nothing here judges the product; that is for the tests.

pub(crate) mod browser;
pub(crate) mod clients;
pub(crate) mod content;
pub(crate) mod hf;
pub(crate) mod hub;
pub(crate) mod libtorrent;
pub(crate) mod mount;
pub(crate) mod need;
pub(crate) mod nginx;
pub(crate) mod page;
pub(crate) mod reading;
pub(crate) mod siege;
pub(crate) mod stage;
