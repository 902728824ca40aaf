//! The page, in the binary.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    /// Where it is.
    pub path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

macro_rules! asset {
    ($path:literal, $content_type:expr, $file:literal) => {
        Asset { path: $path, content_type: $content_type, bytes: include_bytes!(concat!("page/", $file)) }
    };
}

/// All of them.
pub static ASSETS: &[Asset] = &[
    asset!("/", HTML, "index.html"),
    asset!("/page.css", STYLE, "page.css"),
    asset!("/page.js", SCRIPT, "page.js"),
    asset!("/format.js", SCRIPT, "format.js"),
    asset!("/charts.js", SCRIPT, "charts.js"),
    asset!("/icon.svg", "image/svg+xml", "icon.svg"),
    asset!("/uplot/uPlot.js", SCRIPT, "uplot/uPlot.iife.min.js"),
    asset!("/uplot/uPlot.css", STYLE, "uplot/uPlot.min.css"),
    asset!("/uplot/LICENSE", TEXT, "uplot/LICENSE"),
];

impl Asset {
    /// The file as an answer.
    pub fn response(&self) -> Response {
        ([(CONTENT_TYPE, self.content_type)], self.bytes).into_response()
    }
}
