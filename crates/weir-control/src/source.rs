//! Where objects come from: files and folders, read and watched.
pub mod document;
pub mod files;
mod revise;
pub mod watch;
