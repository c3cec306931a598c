//! Lists that come in pages: what has come so far, by the token of the next page.
use super::listed::Listed;
use std::collections::VecDeque;

/// Lists that may be on their way at a time.
const LISTS: usize = 16;

#[derive(Default)]
pub(super) struct Pages(VecDeque<(String, Listed)>);

impl Pages {
    /// The list of a set that a page continues.
    pub fn take(&mut self, token: &str, set: &str) -> Option<Listed> {
        let at = self.0.iter().position(|(next, listed)| next == token && listed.set == set)?;
        self.0.remove(at).map(|(_, listed)| listed)
    }

    /// A list that goes on with the page of a token.
    pub fn put(&mut self, token: String, listed: Listed) {
        self.0.push_back((token, listed));
        if self.0.len() > LISTS {
            self.0.pop_front();
        }
    }
}
