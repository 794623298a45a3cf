//! The two machines. They do not know each other: what one publishes, the other sees when it looks.

pub(crate) mod backend;
pub(crate) mod frontend;

#[cfg(test)]
mod together;
