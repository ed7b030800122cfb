use proptest::prelude::*;

use super::*;

fn service(namespace: &str, name: &str, port: Option<u16>) -> Callee {
    Callee::Service { namespace: namespace.to_owned(), name: name.to_owned(), port }
}

fn domain(name: &str, port: Option<u16>) -> Callee {
    Callee::Domain { name: name.to_owned(), port }
}

#[track_caller]
fn reads(text: &str, callee: &Callee) {
    assert_eq!(Callee::parse(text, "here"), Ok(callee.clone()), "{text}");
}

#[track_caller]
fn refuses(text: &str, message: &str, help: &str) {
    let mistake = Callee::parse(text, "here").unwrap_err();
    assert!(mistake.message.contains(message), "{text}: {mistake:?}");
    assert!(mistake.help.contains(help), "{text}: {mistake:?}");
}

#[test]
fn reads_every_form_of_a_service() {
    reads("cart", &service("here", "cart", None));
    reads("cart:8080", &service("here", "cart", Some(8080)));
    for text in
        ["cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local", "Cart.Shop", "cart.shop.svc.cluster.local."]
    {
        reads(text, &service("shop", "cart", None));
    }
    reads("cart.shop.svc:80", &service("shop", "cart", Some(80)));
    reads("cart.svc", &service("svc", "cart", None));
}

#[test]
fn reads_many_at_once() {
    reads("*", &Callee::Everything);
    for text in ["*.shop", "*.shop.svc", "*.shop.svc.cluster.local"] {
        reads(text, &Callee::Namespace("shop".to_owned()));
    }
    reads("*.svc", &Callee::Namespace("svc".to_owned()));
    for text in ["*.stripe.example", "*.STRIPE.example."] {
        reads(text, &Callee::Domains("stripe.example".to_owned()));
    }
}

#[test]
fn reads_hosts_outside() {
    reads("api.stripe.example", &domain("api.stripe.example", None));
    reads("api.stripe.example:8080", &domain("api.stripe.example", Some(8080)));
    reads("example.com.", &domain("example.com", None));
    reads("example.com.:443", &domain("example.com", Some(443)));
    reads("my_bucket.s3.example", &domain("my_bucket.s3.example", None));
    reads("10.0.0.1", &domain("10.0.0.1", None));
    reads("10.0.0.1:9", &domain("10.0.0.1", Some(9)));
    reads("2001:DB8:0::1", &domain("2001:db8::1", None));
    reads("[2001:db8::1]:80", &domain("2001:db8::1", Some(80)));
}

#[test]
fn says_what_is_wrong_and_what_to_write() {
    refuses("", "empty", "`cart`");
    refuses("https://api.stripe.example", "a URL", "drop `https://`: write `api.stripe.example:443`");
    refuses("http://cart/path", "a URL", "drop `http://`: write `cart`");
    refuses("shop/cart", "has a `/`", "`cart.shop`");
    refuses("api.stripe.example/v1", "has a `/`", "write `api.stripe.example`");
    refuses("bücher.example", "no host has", "punycode");
    refuses("cart shop", "a space", "one host in each entry");
    refuses("ca*t.shop", "not first", "`*.shop`");
    refuses("*cart", "not first", "`*.shop`");
    refuses("*.*.shop", "two `*`", "`*.shop`");
    refuses("*.shop:80", "has a port", "write `*.shop`");
    refuses("*:80", "has a port", "write `*`");
    refuses("*.com.", "too much", "`*.com`");
    refuses("*.cart.shop.svc", "below a Service", "`cart.shop`");
    refuses("*.svc.cluster.local", "every Service", "write `*`");
    refuses("cart:0", "found \"0\"", "write for example `cart:8080`");
    refuses("cart:", "found \"\"", "`cart`");
    refuses("cart:65536", "found \"65536\"", "`cart`");
    refuses("cart:+80", "found \"+80\"", "`cart`");
    refuses("a:b:c", "more than one `:`", "[2001:db8::1]:8080");
    refuses("[::1", "no IPv6 address", "[2001:db8::1]:8080");
    refuses("[::1]x", "has \"x\" after", "`[::1]`");
    refuses("pod-0.cart.shop.svc.cluster.local", "below a Service", "`cart.shop`");
    refuses("shop.svc.cluster.local", "names no Service", "`cart.shop`");
    refuses(".shop", "nothing on one side", "`*.shop`");
    refuses("cart..shop", "nothing on one side", "one dot");
    refuses(".", "nothing on one side", "one dot");
    refuses("-cart", "no part of a host", "at both ends");
    refuses("my_cart.shop", "no part of a host", "use letters");
    refuses("10.0.0.256", "no IP address", "10.0.0.1");
    refuses(&format!("{}.shop", "a".repeat(64)), "has 64 letters", "DNS");
    refuses(&vec!["a"; 130].join("."), "at most 253", "DNS");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn never_panics_and_what_is_read_is_written_the_same(text in any::<String>()) {
        if let Ok(callee) = Callee::parse(&text, "here") {
            prop_assert_eq!(Callee::parse(&callee.to_string(), "there"), Ok(callee));
        }
    }

    #[test]
    fn what_looks_like_a_host_is_read_the_same_again(text in r"(\*\.)?([a-zA-Z0-9_-]{1,4}\.){0,4}(svc|svc\.cluster\.local|local|1|com)?\.?(:[0-9]{0,5})?") {
        if let Ok(callee) = Callee::parse(&text, "here") {
            let written = callee.to_string();
            prop_assert_eq!(Callee::parse(&written, "there"), Ok(callee), "{}", written);
        }
    }

    #[test]
    fn addresses_are_read_the_same_again(address in any::<std::net::IpAddr>(), port in proptest::option::of(1_u16..)) {
        let callee = Callee::Domain { name: address.to_string(), port };
        prop_assert_eq!(Callee::parse(&callee.to_string(), "here"), Ok(callee));
    }
}
