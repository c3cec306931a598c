//! What a failed watch means.
use super::client::text;
use kube::{core::Status, runtime::watcher};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server does not have the kind in this version.
    NotFound,
    /// The server's words name the verb, the resource and the namespace.
    Forbidden(String),
    /// The server takes no streaming lists.
    NoStreamingList,
    /// Too old to go on from: a new list begins.
    Gone,
    Unauthorized(String),
    /// Everything else, as that the server cannot be reached.
    Other(String),
}

impl Trouble {
    /// `listing`: a streaming list was asked for and is not complete.
    pub fn of(error: &watcher::Error, listing: bool) -> Trouble {
        let status = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => status,
            watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
                return Trouble::Other(text(e));
            }
            watcher::Error::NoResourceVersion => return Trouble::Other(error.to_string()),
        };
        Trouble::of_status(status, listing)
    }

    fn of_status(status: &Status, listing: bool) -> Trouble {
        match status.code {
            404 => Trouble::NotFound,
            403 => Trouble::Forbidden(status.message.clone()),
            401 => Trouble::Unauthorized(status.message.clone()),
            410 => Trouble::Gone,
            // 422 where the server does not know them, 500 where its etcd is too old for them.
            400 | 422 | 500 if listing => Trouble::NoStreamingList,
            _ => Trouble::Other(status.message.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_server_are_told_apart() {
        for (code, listing, want) in [
            (404, true, Trouble::NotFound),
            (403, true, Trouble::Forbidden("m".into())),
            (410, true, Trouble::Gone),
            (422, true, Trouble::NoStreamingList),
            (500, true, Trouble::NoStreamingList),
            (500, false, Trouble::Other("m".into())),
            (429, true, Trouble::Other("m".into())),
        ] {
            let status = Status::failure("m", "r").with_code(code).boxed();
            for error in [watcher::Error::WatchError(status.clone()), watcher::Error::WatchStartFailed(kube::Error::Api(status))] {
                assert_eq!(Trouble::of(&error, listing), want, "{error:?}");
            }
        }
    }
}
