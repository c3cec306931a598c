//! Basic authentication of Ingress objects.
use super::{PREFIXES, ROOT, ingress, start};
use crate::{
    client::Connection,
    harness::{Weir, eventually},
    yaml::holder,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// One user for each kind of hash, whose password is the name of the user.
const HTPASSWD: &str = "# users\nbcrypt:$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\napr1:$apr1$abcdefgh$FBwExRW4dCc8aL.OvjpIE1\nmd5:$1$xyz$cEUv8aN9ehjhMXG/kSFnM1:comment\nsha:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\nplain:{PLAIN}letmein\nold:rqXexS6ZhobKA\n";

fn status(weir: &Weir, host: &str, method: &str, user: &str, more: &[(&str, &str)]) -> String {
    let basic = format!("Basic {}", BASE64_STANDARD.encode(user));
    let mut fields = vec![("authorization", &*basic)];
    if user.is_empty() {
        fields.clear();
    }
    fields.extend(more);
    let answer = Connection::open(weir.address()).unwrap().request(method, host, "/", &fields, b"").unwrap();
    match answer.header("www-authenticate") {
        Some(challenge) => format!("{} {challenge}", answer.status),
        None if answer.status == 200 && method == "GET" => format!("200 {}", answer.json()["headers"]["authorization"]),
        None => answer.status.to_string(),
    }
}

#[test]
fn users_are_let_in_by_their_passwords() {
    let mut all = String::new();
    let secrets =
        holder("Secret", "file", &[("auth", HTPASSWD)]) + &holder("Secret", "map", &[("alice", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")]);
    for (short, prefix) in PREFIXES {
        let of =
            |name: &str, annotations: &str| ingress(&format!("{short}-{name}"), &format!("{name}.{short}.test"), prefix, annotations, ROOT);
        all += &of("file", "auth-type: basic\nauth-secret: default/file\nauth-realm: The shop\nenable-cors: true");
        all += &of(
            "map",
            "auth-type: basic\nauth-secret: map\nauth-secret-type: auth-map\nrequest-header-control-update: authorization of-gateway",
        );
    }
    let weir = start(1, &all).file("secrets.yaml", secrets).workers(2).run();
    weir.says("has a hash of user old that is not supported: the user is not let in");
    let refused = "401 Basic realm=\"The shop\"";
    for (short, _) in PREFIXES {
        let table = [
            ("file", "bcrypt:U*U", "200 null"),
            // From what is remembered.
            ("file", "bcrypt:U*U", "200 null"),
            ("file", "bcrypt:U*U2", refused),
            ("file", "apr1:password", "200 null"),
            ("file", "apr1:", refused),
            ("file", "md5:password", "200 null"),
            ("file", "sha:password", "200 null"),
            ("file", "sha:Password", refused),
            ("file", "plain:letmein", "200 null"),
            ("file", "old:password", refused),
            ("file", "nobody:password", refused),
            ("file", "", refused),
            ("map", "alice:password", "200 \"of-gateway\""),
            ("map", "bob:password", "401 Basic realm=\"Authentication Required\""),
        ];
        for (name, user, wanted) in table {
            assert_eq!(status(&weir, &format!("{name}.{short}.test"), "GET", user, &[]), wanted, "{short} {name} {user}");
        }
        // A preflight request has no credentials.
        let preflight = [("origin", "http://b.test"), ("access-control-request-method", "GET")];
        assert_eq!(status(&weir, &format!("file.{short}.test"), "OPTIONS", "", &preflight), "200");
    }
    let stat = |name: &str| weir.stat(&format!("http.0.0.0.0_{}.basic_auth.{name}", weir.ports[0]));
    assert_eq!([stat("allowed"), stat("denied")], [14, 14]);
    // The dump shows no hash.
    let dump = weir.admin("/config_dump").body;
    assert!(dump.contains("\"alice\"") && !dump.contains("W6ph5Mm5Pz8"), "{dump}");
}

/// Who cannot be asked is not let in; the routes open when the Secret comes.
#[test]
fn without_its_secret_an_ingress_is_closed() {
    let of = |name: &str, annotations: &str| ingress(name, &format!("{name}.test"), "higress.io", annotations, ROOT);
    let basic = |secret: &str| format!("auth-type: basic\nauth-secret: {secret}");
    let all = [of("late", &basic("late")), of("foreign", &basic("other/users")), of("empty", &basic("empty"))];
    let weir = start(1, &all.concat()).file("secrets.yaml", holder("Secret", "empty", &[("other", "x")])).run();
    for host in ["late.test", "foreign.test", "empty.test"] {
        assert_eq!(status(&weir, host, "GET", "sha:password", &[]), "503", "{host}");
    }
    for said in
        ["there is no Secret default/late", "the Secret users is in another namespace", "the Secret default/empty has no entry auth"]
    {
        weir.says(said);
    }
    weir.write("late.yaml", &holder("Secret", "late", &[("auth", HTPASSWD)]));
    weir.get_until("late.test", "/", |a| a.status == 401);
    assert_eq!(status(&weir, "late.test", "GET", "sha:password", &[]), "200 null");
    // A changed password counts at once, and the old one no more.
    weir.write("late.yaml", &holder("Secret", "late", &[("auth", "bcrypt:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")]));
    eventually("the new password", || (status(&weir, "late.test", "GET", "bcrypt:password", &[]) == "200 null").then_some(()));
    assert!(status(&weir, "late.test", "GET", "bcrypt:U*U", &[]).starts_with("401"));
}
