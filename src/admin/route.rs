//! One route: its handler, and what the OpenAPI document says about it.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, MethodRouter, on},
};
use utoipa::{
    IntoParams,
    openapi::{
        Components, Paths, Required, ResponsesBuilder,
        path::{HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
        security::SecurityRequirement,
    },
};

use super::describe::{Described, Description};

/// The right that a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Read,
    Change,
    Tokens,
    Restore,
    Vantage,
    /// To be the control of another site.
    Site,
}

impl Needs {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Read => "read",
            Self::Change => "change",
            Self::Tokens => "tokens",
            Self::Restore => "restore",
            Self::Vantage => "vantage",
            Self::Site => "site",
        }
    }
}

/// One route.
pub(super) struct Route<S> {
    pub(super) method: HttpMethod,
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    summary: &'static str,
    handler: MethodRouter<S>,
    pub(super) description: Description,
}

impl<S: Clone + Send + Sync + 'static> Route<S> {
    fn new<H, T, D>(
        method: HttpMethod,
        path: &'static str,
        needs: Needs,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, S> + Described<D>,
        T: 'static,
    {
        let filter = match method {
            HttpMethod::Post => MethodFilter::POST,
            HttpMethod::Delete => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        Self { method, path, needs, summary, handler: on(filter, handler), description: H::description() }
    }

    /// With query parameters that the handler reads by itself.
    pub(super) fn with_query<Q: IntoParams>(mut self) -> Self {
        self.description.add_query::<Q>();
        self
    }
}

macro_rules! route_of_method {
    ($($name:ident $method:ident)+) => {$(
        #[doc = concat!("A route of the method ", stringify!($method), ".")]
        pub(super) fn $name<S, H, T, D>(
            path: &'static str,
            needs: Needs,
            summary: &'static str,
            handler: H,
        ) -> Route<S>
        where
            S: Clone + Send + Sync + 'static,
            H: Handler<T, S> + Described<D>,
            T: 'static,
        {
            Route::new(HttpMethod::$method, path, needs, summary, handler)
        }
    )+};
}

route_of_method! { get Get post Post delete Delete }

/// A router for a table of routes.
pub(super) fn router_of<S: Clone + Send + Sync + 'static>(routes: Vec<Route<S>>) -> Router<S> {
    routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler))
}

/// Adds routes to the document.
pub(super) fn describe<S>(routes: Vec<Route<S>>, paths: &mut Paths, components: &mut Components) {
    for route in routes {
        let Description { query, body, responses, schemas } = route.description;
        components.schemas.extend(schemas);
        let parameters: Vec<Parameter> = path_parameters(route.path).chain(query).collect();
        let all = responses
            .into_iter()
            .fold(ResponsesBuilder::new(), |all, (status, response)| all.response(status, response));
        let right = format!("Needs the right: {}.", route.needs.as_str());
        let mut operation = OperationBuilder::new()
            .summary(Some(route.summary))
            .description(Some(right))
            .parameters((!parameters.is_empty()).then_some(parameters))
            .request_body(body)
            .responses(all.build());
        if route.needs != Needs::Nothing {
            operation = operation.security(SecurityRequirement::new::<_, [&str; 0], &str>("token", []));
        }
        paths.add_path_operation(route.path, vec![route.method], operation.build());
    }
}

/// The parameters of a path, which are in braces.
fn path_parameters(path: &str) -> impl Iterator<Item = Parameter> + '_ {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
        parameter.required(Required::True).schema(Some(text)).build()
    })
}
