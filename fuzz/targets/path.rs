//! Path normalisation: doing it twice changes nothing more, and no dot segment is left.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_net::http::path::{Normalized, Options, Slashes, normalize};

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let escaped_slashes = [Slashes::Keep, Slashes::Reject, Slashes::Redirect, Slashes::Unescape][usize::from(choice & 3)];
    let options = Options { normalize: choice & 4 != 0, merge_slashes: choice & 8 != 0, escaped_slashes };
    let path = [b"/", rest].concat();
    let done = match normalize(&path, options) {
        Normalized::Reject => return,
        Normalized::Same => path.clone(),
        Normalized::New(path) | Normalized::Redirect(path) => path,
    };
    assert_eq!(done.first(), Some(&b'/'));
    assert_eq!(normalize(&done, options), Normalized::Same, "{:?} is not normal", String::from_utf8_lossy(&done));
    if options.normalize {
        assert!(!done.split(|b| *b == b'/').any(|segment| segment == b"." || segment == b".."), "{:?}", String::from_utf8_lossy(&done));
    }
});
