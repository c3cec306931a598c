//! Which modules of its own crate a file of Rust uses: its `use` trees and the paths in its code, without its tests.
use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module of a crate: the names on the way from its root, which is empty.
pub type Module = Vec<String>;

/// One path that a file names.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    pub line: usize,
    /// As it is written.
    pub shown: String,
    /// From the root of the crate, if it is a path within the crate; it may go on beyond a module to an item.
    pub path: Module,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imports {
    pub all: Vec<Import>,
    /// Modules that exist for tests only.
    pub test_modules: Vec<Module>,
}

/// Reads the text of the file of a module.
pub fn read(text: &str, module: &[String]) -> Result<Imports> {
    let tokens: TokenStream = text.parse().map_err(|e| anyhow!("cannot be read as Rust: {e}"))?;
    let mut imports = Imports::default();
    imports.walk(tokens, module);
    Ok(imports)
}

impl Imports {
    fn walk(&mut self, tokens: TokenStream, scope: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at += match &tokens[at..] {
                [TokenTree::Punct(hash), TokenTree::Group(attribute), rest @ ..] if hash.as_char() == '#' => {
                    if attribute.stream().to_string().replace(' ', "") == "cfg(test)" { 2 + self.skip_test(rest, scope) } else { 2 }
                }
                [TokenTree::Ident(word), rest @ ..] if word == "use" => {
                    let end = rest.iter().position(is_semicolon).unwrap_or(rest.len());
                    self.tree(&rest[..end], &[], scope);
                    1 + end
                }
                [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..] if word == "mod" => {
                    self.walk(body.stream(), &[scope, &[name.to_string()]].concat());
                    3
                }
                [TokenTree::Ident(_), ..] => self.path(&tokens[at..], scope),
                [TokenTree::Group(group), ..] => {
                    self.walk(group.stream(), scope);
                    1
                }
                _ => 1,
            };
        }
    }

    /// How long the item is that an attribute `#[cfg(test)]` is for.
    fn skip_test(&mut self, item: &[TokenTree], scope: &[String]) -> usize {
        for pair in item.windows(3) {
            match pair {
                [TokenTree::Ident(word), TokenTree::Ident(name), end] if word == "mod" && is_semicolon(end) => {
                    self.test_modules.push([scope, &[name.to_string()]].concat());
                }
                _ => {}
            }
            if pair.iter().any(ends_item) {
                break;
            }
        }
        item.iter().position(ends_item).map_or(item.len(), |end| end + 1)
    }

    /// One tree of a `use`, below the names of `prefix`.
    fn tree(&mut self, tokens: &[TokenTree], prefix: &[String], scope: &[String]) {
        let mut names = prefix.to_vec();
        let mut renamed = false;
        for token in tokens {
            match token {
                TokenTree::Ident(word) if word == "as" => renamed = true,
                TokenTree::Ident(_) if renamed => {}
                TokenTree::Ident(name) => names.push(name.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    return inner.split(|t| is(t, ',')).filter(|part| !part.is_empty()).for_each(|part| self.tree(part, &names, scope));
                }
                _ => {}
            }
        }
        let line = tokens.first().map_or(0, |t| t.span().start().line);
        self.add(&names, line, scope);
    }

    /// A path in code; returns its length in tokens.
    fn path(&mut self, tokens: &[TokenTree], scope: &[String]) -> usize {
        let mut names = vec![tokens[0].to_string()];
        let mut length = 1;
        while let [TokenTree::Punct(a), TokenTree::Punct(b), TokenTree::Ident(name), ..] = &tokens[length..]
            && a.as_char() == ':'
            && b.as_char() == ':'
        {
            names.push(name.to_string());
            length += 3;
        }
        if names.len() > 1 {
            self.add(&names, tokens[0].span().start().line, scope);
        }
        length
    }

    fn add(&mut self, names: &[String], line: usize, scope: &[String]) {
        let up = names.iter().take_while(|n| *n == "super").count();
        let (base, rest) = match names.first().map(String::as_str) {
            Some("crate") => (&[][..], &names[1..]),
            Some("self") => (scope, &names[1..]),
            Some("super") if up <= scope.len() => (&scope[..scope.len() - up], &names[up..]),
            // A module below this one, or another crate: whether there is such a file tells.
            Some(_) => (scope, names),
            None => return,
        };
        let rest: Vec<String> = rest.iter().filter(|n| *n != "self").cloned().collect();
        self.all.push(Import { line, shown: names.join("::"), path: [base, &rest].concat() });
    }
}

fn is(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == wanted)
}

fn is_semicolon(token: &TokenTree) -> bool {
    is(token, ';')
}

fn ends_item(token: &TokenTree) -> bool {
    is_semicolon(token) || matches!(token, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_wherever_they_stand() {
        let text = r##"
            //! use crate::comment;
            use crate::{a::{self, B as C}, d::*};
            use super::super::e;
            use std::fmt;
            use child::F;
            fn f() -> crate::g::H { println!("crate::text {}", super::i::J); child::k() }
            mod inline { use super::L; }
            #[cfg(test)]
            use crate::only_tests;
            #[cfg(test)]
            mod apart;
            macro_rules! m { () => { $crate::m::N } }
            #[cfg(test)]
            mod tests { use crate::in_tests; }
        "##;
        let module = ["x".to_string(), "y".to_string()];
        let found = read(text, &module).unwrap();
        let paths: Vec<String> = found.all.iter().map(|i| format!("{} {}", i.line, i.path.join("::"))).collect();
        let want = [
            "3 a",
            "3 a::B",
            "3 d",
            "4 e",
            "5 x::y::std::fmt",
            "6 x::y::child::F",
            "7 g::H",
            "7 x::i::J",
            "7 x::y::child::k",
            "8 x::y::L",
            "13 m::N",
        ];
        assert_eq!(paths, want);
        assert_eq!(found.test_modules, [["x", "y", "apart"].map(String::from)]);
        assert!(read("fn broken() {", &[]).is_err());
    }
}
