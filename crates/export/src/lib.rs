//! Ways in: protocols through which clients and guests reach a virtual disk. Each is one module, which turns bytes of
//! its protocol into requests and outcomes into bytes, and implements [`virtual_disk::RequestSource`].
//!
//! ```text
//!   NBD client --socket--> nbd::Server --> session --> source --+
//!                                                              +--(RequestSource)--> virtual disk
//!   Xen guest --ring, grants, events--> blkif ----------> source --+
//! ```
//!
//! This is where protocol error codes are chosen, and nowhere below. An export knows nothing of images and files.

pub mod blkif;
pub mod nbd;
