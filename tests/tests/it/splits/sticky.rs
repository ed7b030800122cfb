//! Users stay with a version, and move only to one that grows.

use testkit::{http::Connection, proxy::Proxy, temp_dir, weir::Weir};
use tokio::time::Instant;

use super::{SMART, SOON, Shop, programmed, request, smart, view};

const USERS: usize = 300;

impl Shop {
    /// Which version answers each user.
    async fn homes(&self) -> Vec<usize> {
        let mut connection = Connection::open(self.page.outbound(0), None).await.unwrap();
        let mut homes = Vec::new();
        for user in 0..USERS {
            let before = self.served();
            let mut with = request("/");
            with.headers_mut().insert("x-user", format!("user-{user}").parse().unwrap());
            assert_eq!(connection.send(with).await.unwrap().status(), 200);
            homes.push(self.served().iter().zip(&before).position(|(now, before)| now > before).unwrap());
        }
        homes
    }

    fn weigh(&self, weights: &[u32], steer: &str) {
        let backends: Vec<String> =
            weights.iter().enumerate().map(|(n, weight)| format!("{{name: v{n}, weight: {weight}}}")).collect();
        let more = format!("  sticky: {{type: Header, name: x-user}}\n{steer}");
        self.put("split.yaml", &smart(&backends.join(", "), &more));
    }
}

/// How many have moved: each from a version that shrank to one that grew.
#[track_caller]
fn moved(before: &[usize], after: &[usize], weights: [&[u32]; 2]) -> usize {
    let [old, new] = weights;
    let moves = before.iter().zip(after).enumerate().filter(|(_, (from, to))| from != to);
    moves
        .inspect(|(user, (from, to))| {
            assert!(new[**from] < old[**from] && new[**to] > old[**to], "user {user} moved from v{from} to v{to}");
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_stay_with_a_version_and_move_only_to_the_one_that_grows() {
    let shop = Shop::start(4).await;
    // The next to the last grows, where only one of the three that shrink touches it; then it shrinks, and a third one grows.
    let steps: [&[u32]; 4] = [&[40, 30, 10, 20], &[30, 20, 40, 10], &[30, 50, 10, 10], &[40, 30, 10, 20]];
    shop.weigh(steps[0], "");
    let (weir, _proxy) = shop.run().await;
    programmed(&weir, SMART, 1).await;
    let mut homes = shop.homes().await;
    assert_eq!(shop.homes().await, homes, "who does not move stays");
    for (step, generation) in (1..steps.len()).zip(2..) {
        shop.weigh(steps[step], "");
        programmed(&weir, SMART, generation).await;
        let now = shop.homes().await;
        let count = moved(&homes, &now, [steps[step - 1], steps[step]]);
        // A third of them, and never more.
        assert!((60..=120).contains(&count), "{count} of {USERS} moved in step {step}");
        homes = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_stay_where_they_are_when_weir_starts_again() {
    let shop = Shop::start(3).await;
    let state = temp_dir();
    let arguments = ["--state-dir", state.path().to_str().unwrap()];
    // How its shares came to be decides who is where, and is known from what was kept alone.
    shop.weigh(&[50, 40, 10], "  steer: prefer lower errors, every 1s\n");
    let weir = Weir::start(shop.folder.path(), &arguments).await;
    let _proxy = Proxy::start(&weir, &shop.page, 0).await;
    programmed(&weir, SMART, 1).await;
    let first = shop.homes().await;
    shop.weigh(&[40, 30, 30], "  steer: prefer lower errors, every 1s\n");
    programmed(&weir, SMART, 2).await;
    let second = shop.homes().await;
    assert!(moved(&first, &second, [&[50, 40, 10], &[40, 30, 30]]) > 20);
    let (xds, admin) = (weir.xds, weir.admin);
    weir.stop().await.unwrap();
    let mut again = Weir::spawn(shop.folder.path(), xds, admin, &arguments);
    again.ready().await;
    programmed(&again, SMART, 1).await;
    assert_eq!(shop.homes().await, second, "nobody moves by a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_makes_all_the_requests_is_said_to_make_shares_unreal() {
    let shop = Shop::start(2).await;
    shop.weigh(&[50, 50], "  steer: prefer lower errors, every 1s\n");
    let (weir, _proxy) = shop.run().await;
    programmed(&weir, SMART, 1).await;
    let mut connection = Connection::open(shop.page.outbound(0), None).await.unwrap();
    let mut call = async |user: usize| {
        let mut with = request("/");
        with.headers_mut().insert("x-user", format!("user-{user}").parse().unwrap());
        assert_eq!(connection.send(with).await.unwrap().status(), 200);
    };
    let (mut user, mut message) = (0, String::new());
    let end = Instant::now() + SOON;
    while message.is_empty() {
        assert!(Instant::now() < end, "{:?}", weir.status().await);
        call(7).await;
        message = view(&weir).await.unwrap().expect(SMART, "Degraded", true, "NotRealised").unwrap_or_default();
    }
    assert!(message.contains("gets 100 % of the requests and should get 50 %: few users"), "{message}");
    let end = Instant::now() + 3 * SOON;
    while view(&weir).await.unwrap().expect(SMART, "Degraded", false, "Healthy").is_err() {
        assert!(Instant::now() < end, "{:?}", weir.status().await);
        user += 1;
        call(user).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_given_to_who_has_none_and_an_address_is_one_user() {
    let shop = Shop::start(2).await;
    let sticky = |by: &str| smart("{name: v0, weight: 50}, {name: v1, weight: 50}", &format!("  sticky: {by}\n"));
    shop.put("split.yaml", &sticky("{type: Cookie, name: user}"));
    let (weir, _proxy) = shop.run().await;
    programmed(&weir, SMART, 1).await;
    let mut connection = Connection::open(shop.page.outbound(0), None).await.unwrap();
    let mut cookies = Vec::new();
    for _ in 0..20 {
        let before = shop.served();
        let answer = connection.send(request("/")).await.unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        cookies.push((cookie, shop.served()[1] > before[1]));
    }
    assert!(cookies.iter().any(|(_, second)| *second) && cookies.iter().any(|(_, second)| !second), "{cookies:?}");
    for (cookie, second) in &cookies {
        for _ in 0..3 {
            let before = shop.served();
            let mut with = request("/");
            with.headers_mut().insert("cookie", cookie.parse().unwrap());
            let answer = connection.send(with).await.unwrap();
            assert!(answer.headers().get("set-cookie").is_none(), "it has one");
            assert_eq!(shop.served()[1] > before[1], *second, "{cookie}");
        }
    }
    shop.put("split.yaml", &sticky("{type: ClientIP}"));
    programmed(&weir, SMART, 2).await;
    let before = shop.served();
    for _ in 0..50 {
        // A port of its own each.
        let mut connection = Connection::open(shop.page.outbound(0), None).await.unwrap();
        connection.send(request("/")).await.unwrap();
    }
    let of_each: Vec<u64> = shop.served().iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(of_each == [50, 0] || of_each == [0, 50], "{of_each:?}");
}
