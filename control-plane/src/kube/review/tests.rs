use k8s_openapi::api::authentication::v1::UserInfo;

use super::*;

fn claim() -> Claim {
    let account = Account { namespace: "shop".parse().unwrap(), service_account: "reviews".parse().unwrap() };
    Claim { account, pod: "reviews-1".to_owned() }
}

fn good() -> TokenReviewStatus {
    let extra = [(POD_NAME, "reviews-1"), (POD_UID, "0b1a"), ("authentication.kubernetes.io/credential-id", "JTI=1")];
    let extra = extra.into_iter().map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).collect();
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["weir".to_owned()]),
        user: Some(UserInfo {
            username: Some("system:serviceaccount:shop:reviews".to_owned()),
            extra: Some(extra),
            ..UserInfo::default()
        }),
        error: None,
    }
}

#[test]
fn a_bound_token_of_the_same_pod_is_good() {
    assert_eq!(decide(&good(), &claim()), Ok(claim().account));
}

#[test]
fn every_other_token_is_refused_with_its_own_reason() {
    type Change = fn(&mut TokenReviewStatus);
    let table: [(&str, Change, &str); 14] = [
        ("not authenticated", |it| it.authenticated = Some(false), "token-rejected"),
        ("nothing said", |it| *it = TokenReviewStatus::default(), "token-rejected"),
        ("an API server that knows no audiences", |it| it.audiences = None, "wrong-audience"),
        (
            "meant for the API server",
            |it| it.audiences = Some(vec!["https://kubernetes.default.svc".to_owned()]),
            "wrong-audience",
        ),
        ("a person", |it| it.user.as_mut().unwrap().username = Some("admin".to_owned()), "not-a-service-account"),
        ("nobody", |it| it.user = None, "not-a-service-account"),
        ("a name that is none", |it| user(it, "system:serviceaccount:Shop:reviews"), "not-a-service-account"),
        ("another namespace", |it| user(it, "system:serviceaccount:other:reviews"), "somebody-elses-token"),
        ("another account", |it| user(it, "system:serviceaccount:shop:ratings"), "somebody-elses-token"),
        ("another pod", |it| extra(it, POD_NAME, &["reviews-2"]), "another-pods-token"),
        ("made by hand", |it| it.user.as_mut().unwrap().extra = None, "not-bound-to-a-pod"),
        ("without the pod's UID", |it| extra(it, POD_UID, &[]), "not-bound-to-a-pod"),
        ("without the pod's name", |it| extra(it, POD_NAME, &[""]), "not-bound-to-a-pod"),
        ("with two pods", |it| extra(it, POD_NAME, &["reviews-1", "other"]), "not-bound-to-a-pod"),
    ];
    for (what, change, label) in table {
        let mut status = good();
        change(&mut status);
        assert_eq!(decide(&status, &claim()).unwrap_err().label(), label, "{what}");
    }
}

fn user(status: &mut TokenReviewStatus, name: &str) {
    status.user.as_mut().unwrap().username = Some(name.to_owned());
}

fn extra(status: &mut TokenReviewStatus, key: &str, values: &[&str]) {
    let values = values.iter().map(|&it| it.to_owned()).collect();
    status.user.as_mut().unwrap().extra.as_mut().unwrap().insert(key.to_owned(), values);
}

#[test]
fn what_the_api_server_says_is_understood() {
    for (words, label) in [
        (
            "[invalid bearer token, token audiences [\"https://kubernetes.default.svc\"] is invalid for the target audiences [\"weir\"]]",
            "wrong-audience",
        ),
        ("[invalid bearer token, service account token has expired]", "token-expired"),
        ("[invalid bearer token, service account token has been invalidated]", "pod-deleted"),
        ("[invalid bearer token, pod UID (a) does not match service account pod ref claim (b)]", "pod-deleted"),
        ("[invalid bearer token, service account UID (a) does not match claim (b)]", "pod-deleted"),
        ("[invalid bearer token, service account shop/reviews has been deleted]", "pod-deleted"),
        ("[invalid bearer token, serviceaccounts \"reviews\" not found]", "pod-deleted"),
        ("[invalid bearer token, square/go-jose: error in cryptographic primitive]", "token-rejected"),
        ("", "token-rejected"),
    ] {
        let status = TokenReviewStatus { error: Some(words.to_owned()), ..TokenReviewStatus::default() };
        assert_eq!(decide(&status, &claim()).unwrap_err().label(), label, "{words}");
    }
}

#[test]
fn failures_to_ask_can_be_told_apart_and_tried_again() {
    for (failure, label) in [
        (Failure::Unreachable("refused".into()), "api-server-unreachable"),
        (Failure::Unauthenticated("401".into()), "api-server-unreachable"),
        (Failure::Server("500".into()), "api-server-unreachable"),
        (Failure::Forbidden("tokenreviews is forbidden".into()), "token-review-forbidden"),
        (Failure::Busy("later".into()), "busy"),
    ] {
        let refused = refused(failure);
        assert_eq!((refused.label(), refused.code()), (label, tonic::Code::Unavailable));
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_is_said_to_be() {
    let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("connection refused"))
    });
    let reviewer = Reviewer::new(Client::new(service, "default"));
    let refused = reviewer.account("secret-token".to_owned(), &claim()).await.unwrap_err();
    assert_eq!(refused.label(), "api-server-unreachable");
    assert!(!refused.to_string().contains("secret-token"), "{refused}");
    let long = reviewer.account("x".repeat(MAX_TOKEN + 1), &claim()).await.unwrap_err();
    assert_eq!(long.label(), "token-rejected");
}

#[tokio::test]
async fn the_review_asks_for_the_audience_of_the_mesh() {
    let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
        assert_eq!(request.uri().path(), "/apis/authentication.k8s.io/v1/tokenreviews");
        let body = request.into_body().collect_bytes().await.unwrap();
        let review: TokenReview = serde_json::from_slice(&body).unwrap();
        assert_eq!(review.spec.audiences, Some(vec!["weir".to_owned()]));
        let answer = TokenReview { status: Some(good()), ..review };
        Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::from(serde_json::to_vec(&answer).unwrap())))
    });
    let reviewer = Reviewer::new(Client::new(service, "default"));
    assert_eq!(reviewer.account("token".to_owned(), &claim()).await, Ok(claim().account));
}
