/* Draws the REST API's description, and lets whoever is logged in try it. */

const place = document.querySelector("#api-docs");
const token = JSON.parse(document.body.getAttribute("hx-headers"))["x-csrftoken"];

window.SwaggerUIBundle({
  domNode: place,
  url: place.dataset.schema,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // Without this, it asks a server elsewhere whether the description is valid.
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.headers["X-CSRFToken"] = token;
    return request;
  },
});
