//! Moves kubelet of a node to the hub, and back.
//!
//! No file of the node is changed: what is needed is added, and kubelet is told by one small file, the *switch*, which settings to use.
//! So going back is taking the files away again. A journal on disk says what was begun; whoever finds one undoes it first.
pub mod journal;
pub mod layout;
pub mod plan;
pub mod preflight;
pub mod run;
