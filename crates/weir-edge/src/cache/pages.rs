//! Lists that come in pages: what has come so far, by the token of the next page.
use crate::apimachinery::list::List;
use std::collections::VecDeque;

/// Lists that may be on their way at a time.
const LISTS: usize = 16;

pub struct Pages {
    /// Bytes of all of them.
    limit: usize,
    open: VecDeque<(String, List, usize)>,
}

impl Pages {
    pub fn new(limit: usize) -> Pages {
        Pages { limit, open: VecDeque::new() }
    }

    /// Adds a page: `token` is that of the request, empty for the first. Returns the list with its last page.
    pub fn add(&mut self, token: &str, page: List, bytes: usize) -> Option<List> {
        let before = match token {
            "" => None,
            _ => {
                let at = self.open.iter().position(|(next, ..)| next == token)?;
                self.open.remove(at)
            }
        };
        let (list, bytes) = match before {
            None => (page, bytes),
            Some((_, mut list, held)) => {
                list.items.extend(page.items);
                (List { items: list.items, head: page.head }, held + bytes)
            }
        };
        if list.head.continue_token.is_empty() {
            return Some(list);
        }
        self.open.push_back((list.head.continue_token.clone(), list, bytes));
        while self.open.len() > LISTS || self.open.iter().map(|(.., bytes)| bytes).sum::<usize>() > self.limit {
            self.open.pop_front();
        }
        None
    }
}
