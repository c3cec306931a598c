//! Tables, a model, and damage, against stores in folders of their own.
mod basics;
