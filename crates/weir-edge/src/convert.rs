//! Moves kubelet of a node to the hub, and back.
//!
//! No file of the node is changed. Files are added, and one small file, the *switch*, says which settings kubelet uses.
//! So going back is taking the files away again. A journal on disk says what was begun; a command that finds one undoes it first.
pub mod journal;
pub mod layout;
pub mod plan;
pub mod preflight;
pub mod run;
