/* Draws the REST API's description, and lets whoever is logged in try it. */

const place = document.querySelector("#api-docs");
const token = JSON.parse(document.body.getAttribute("hx-headers"))["x-csrftoken"];

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

// The page has a title of its own, and whoever reads it is logged in already.
const nothing = () => () => null;

window.SwaggerUIBundle({
  domNode: place,
  url: place.dataset.schema,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // Without this, it asks a server elsewhere whether the description is valid.
  validatorUrl: null,
  plugins: [() => ({ wrapComponents: { info: nothing, SchemesContainer: nothing, authorizeOperationBtn: nothing } })],
  requestInterceptor: (request) => {
    request.headers["X-CSRFToken"] = token;
    return request;
  },
});
