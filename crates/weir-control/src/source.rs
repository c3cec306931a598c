//! Where objects come from: files and folders, read and watched.
pub mod document;
pub mod files;
pub mod inbox;
mod placing;
mod revise;
pub mod text;
pub mod watch;
