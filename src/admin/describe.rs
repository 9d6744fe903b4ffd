//! What handlers take and answer, read from their signatures, so that the OpenAPI document cannot differ from them.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        self, Content, Ref, RefOr, Required, ResponseBuilder, Schema,
        path::{Parameter, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{ArrayBuilder, ObjectBuilder, Type},
    },
};

use super::{
    Caller, JsonBody, Problem, QueryParams,
    sites::{SiteBody, SiteCaller},
};
use crate::api;

/// The description of one operation in the document.
#[derive(Clone, Default)]
pub(super) struct Description {
    pub(super) query: Vec<Parameter>,
    pub(super) body: Option<RequestBody>,
    pub(super) responses: Vec<(&'static str, openapi::Response)>,
    /// The schemas that the rest refers to, by name.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

impl Description {
    /// Adds a schema, and returns a reference to it.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        Ref::from_schema_name(T::name()).into()
    }

    fn answers(&mut self, status: &'static str, what: &str, kind: &str, schema: RefOr<Schema>) {
        let response = ResponseBuilder::new().description(what).content(kind, Content::new(Some(schema)));
        self.responses.push((status, response.build()));
    }

    fn takes(&mut self, kind: &str, schema: RefOr<Schema>) {
        let body = RequestBodyBuilder::new().content(kind, Content::new(Some(schema)));
        self.body = Some(body.required(Some(Required::True)).build());
    }

    /// Adds query parameters.
    pub(super) fn add_query<Q: IntoParams>(&mut self) {
        self.query.extend(Q::into_params(|| Some(ParameterIn::Query)));
    }
}

fn text() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).into()
}

/// An argument of a handler.
pub(super) trait Input {
    /// Adds what it takes from a request.
    fn describe(_: &mut Description) {}
}

impl<S> Input for State<S> {}
impl Input for Caller {}
impl Input for SiteCaller {}
impl Input for HeaderMap {}
// The table of routes describes these two.
impl<T> Input for Path<T> {}
impl Input for RawQuery {}

impl<T: ToSchema> Input for JsonBody<T> {
    fn describe(operation: &mut Description) {
        let schema = operation.schema::<T>();
        operation.takes("application/json", schema);
    }
}

impl<T: ToSchema> Input for SiteBody<T> {
    fn describe(operation: &mut Description) {
        let schema = operation.schema::<T>();
        operation.takes("application/json", schema);
    }
}

impl Input for String {
    fn describe(operation: &mut Description) {
        operation.takes(YAML, text());
    }
}

impl<Q: IntoParams> Input for QueryParams<Q> {
    fn describe(operation: &mut Description) {
        operation.add_query::<Q>();
    }
}

/// What a handler returns.
pub(super) trait Output {
    /// Adds what it answers.
    fn describe(operation: &mut Description);
}

impl<T: Output> Output for Result<T, Problem> {
    fn describe(operation: &mut Description) {
        T::describe(operation);
        let schema = operation.schema::<api::Problem>();
        operation.answers("default", "The request was not carried out.", "application/json", schema);
    }
}

impl<T: ToSchema> Output for Json<T> {
    fn describe(operation: &mut Description) {
        let schema = operation.schema::<T>();
        operation.answers("200", "Done.", "application/json", schema);
    }
}

/// A list, as JSON.
#[derive(Debug)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T: Serialize> IntoResponse for List<T> {
    fn into_response(self) -> Response {
        Json(self.0).into_response()
    }
}

impl<T: ToSchema> Output for List<T> {
    fn describe(operation: &mut Description) {
        let items = operation.schema::<T>();
        let schema = ArrayBuilder::new().items(items);
        operation.answers("200", "Done.", "application/json", schema.into());
    }
}

/// Something that the request has made, as JSON.
#[derive(Debug)]
pub(super) struct Created<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

impl<T: ToSchema> Output for Created<T> {
    fn describe(operation: &mut Description) {
        let schema = operation.schema::<T>();
        operation.answers("201", "Made.", "application/json", schema);
    }
}

const YAML: &str = "application/yaml";

/// Documents in YAML.
#[derive(Debug)]
pub(super) struct Yaml(pub(super) String);

impl IntoResponse for Yaml {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], self.0).into_response()
    }
}

impl Output for Yaml {
    fn describe(operation: &mut Description) {
        operation.answers("200", "Documents.", YAML, text());
    }
}

/// The OpenAPI document.
#[derive(Debug)]
pub(super) struct OpenApiText(pub(super) &'static str);

impl IntoResponse for OpenApiText {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

impl Output for OpenApiText {
    fn describe(operation: &mut Description) {
        let schema = ObjectBuilder::new().schema_type(Type::Object).into();
        operation.answers("200", "The document.", "application/json", schema);
    }
}

/// A page that may show nothing but its own content.
#[derive(Debug)]
pub(super) struct Page(pub(super) &'static str);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let policy =
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
        let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")];
        (headers, Html(self.0)).into_response()
    }
}

impl Output for Page {
    fn describe(operation: &mut Description) {
        operation.answers("200", "The page.", "text/html", text());
    }
}

impl Output for &'static str {
    fn describe(operation: &mut Description) {
        operation.answers("200", "`ok`", "text/plain", text());
    }
}

/// Metrics in the text format of Prometheus.
#[derive(Debug)]
pub(super) struct MetricsText(pub(super) String);

impl IntoResponse for MetricsText {
    fn into_response(self) -> Response {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], self.0).into_response()
    }
}

impl Output for MetricsText {
    fn describe(operation: &mut Description) {
        operation.answers("200", "The metrics.", "text/plain", text());
    }
}

/// The reasons why a node is not ready, a line each.
#[derive(Debug)]
pub(super) struct NotReady(pub(super) Vec<String>);

impl IntoResponse for NotReady {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.0.join("\n"))).into_response()
    }
}

impl<T: Output> Output for Result<T, NotReady> {
    fn describe(operation: &mut Description) {
        T::describe(operation);
        operation.answers("503", "The reasons, a line each.", "text/plain", text());
    }
}

/// A handler whose arguments and answer are described.
pub(super) trait Described<Arguments> {
    /// What it takes and answers.
    fn description() -> Description;
}

macro_rules! described {
    ($($argument:ident)*) => {
        impl<Handler, Answer, $($argument),*> Described<($($argument,)*)> for Handler
        where
            Handler: Fn($($argument),*) -> Answer,
            Answer: Future,
            Answer::Output: Output,
            $($argument: Input,)*
        {
            fn description() -> Description {
                let mut description = Description::default();
                $($argument::describe(&mut description);)*
                <Answer::Output as Output>::describe(&mut description);
                description
            }
        }
    };
}

described!();
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
