"use strict";

// What a write in a session has to show besides the cookie: only a page of this site can read it.
function token() {
  const said = document.cookie.split("; ").find((one) => one.startsWith("csrftoken="));
  return said === undefined ? "" : said.slice("csrftoken=".length);
}

window.addEventListener("DOMContentLoaded", () => {
  window.SwaggerUIBundle({
    url: "/api/openapi.json",
    dom_id: "#swagger-ui",
    validatorUrl: null,
    queryConfigEnabled: false,
    requestInterceptor: (request) => {
      if (new URL(request.url, window.location.href).origin === window.location.origin) {
        request.headers["X-CSRFToken"] = token();
      }
      return request;
    },
  });
});
