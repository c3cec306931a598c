//! A row of docs/plugins/compatibility.md. Each is declared where its name is implemented, by one macro for both: a name without a row
//! does not compile, nor does a row without a name.

/// A name and what the host does for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    /// The versions of the ABI that have it, or who added it.
    pub abi: &'static str,
    /// One short sentence.
    pub does: &'static str,
    /// `FILE::TEST` in the suite of the binary, or `wasm::FILE::TEST` in the conformance tests of this crate. Names that are absent
    /// have none.
    pub test: &'static str,
}

impl Row {
    /// A row of a name in bytes; names are ASCII.
    pub const fn new(name: &'static [u8], abi: &'static str, does: &'static str, test: &'static str) -> Row {
        let name = match std::str::from_utf8(name) {
            Ok(name) => name,
            Err(_) => "",
        };
        Row { name, abi, does, test }
    }
}

/// Declares the names that guests pass as bytes as an enum, with a row each. `of` finds a name; the match on the enum implements it.
#[macro_export]
macro_rules! names {
    ($(#[$meta:meta])* $vis:vis enum $type:ident { $($variant:ident = $name:literal, $abi:literal, $does:literal, $test:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $type { $($variant),* }

        impl $type {
            $vis const ROWS: &'static [$crate::row::Row] =
                &[$($crate::row::Row::new($name, $abi, $does, $test)),*];

            $vis fn of(name: &[u8]) -> Option<$type> {
                match name {
                    $($name => Some($type::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
