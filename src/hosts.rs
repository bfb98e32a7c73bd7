//! URLs that name several hosts, as in `postgres://shop@db1:5432,db2:5432/shop`.

/// Returns one URL for each host of `url`, in its order. Everything else in them is the same.
pub(crate) fn each_host(url: &str) -> Vec<String> {
    let hosts = place(url);
    url[hosts.clone()].split(',').map(|host| format!("{}{host}{}", &url[..hosts.start], &url[hosts.end..])).collect()
}

/// Returns the hosts of `url` with their ports, in its order.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn hosts(url: &str) -> Vec<String> {
    url[place(url)].split(',').map(str::to_owned).collect()
}

/// Returns where the hosts are: behind the scheme, the user and the password, and before the path and the parameters.
fn place(url: &str) -> std::ops::Range<usize> {
    let start = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |length| start + length);
    let start = url[start..end].rfind('@').map_or(start, |user| start + user + 1);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_gets_a_url() {
        for (url, expected) in [
            ("amqp://mq", vec!["amqp://mq"]),
            ("amqp://mq1,mq2", vec!["amqp://mq1", "amqp://mq2"]),
            (
                "postgres://a:b,c@db1:5432,[::1]:5433/shop?options=-c,x",
                vec!["postgres://a:b,c@db1:5432/shop?options=-c,x", "postgres://a:b,c@[::1]:5433/shop?options=-c,x"],
            ),
            (
                "mysql://a@db1,db2:3307?ssl-mode=DISABLED",
                vec!["mysql://a@db1?ssl-mode=DISABLED", "mysql://a@db2:3307?ssl-mode=DISABLED"],
            ),
            ("db1,db2", vec!["db1", "db2"]),
            ("", vec![""]),
        ] {
            assert_eq!(each_host(url), expected, "{url}");
        }
    }
}
