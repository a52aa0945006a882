// The page of those who send no credentials: it takes a token, and loads the console with it. The token stays in memory.

const form = document.querySelector("form");
const message = document.querySelector("#message");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = form.elements.token.value.trim();
  message.textContent = "";
  try {
    // Without the browser's own credentials, a refusal does not make it ask for a user and a password.
    const headers = { Authorization: `Bearer ${token}`, Accept: "text/html" };
    const response = await fetch(location.href, { headers, credentials: "omit", cache: "no-store" });
    if (response.ok) replacePage(await response.text(), token);
    else if (response.status === 401) message.textContent = "The server does not accept this token.";
    else message.textContent = await response.text();
  } catch {
    message.textContent = "The server cannot be reached, or this is no token.";
  }
});

function replacePage(text, token) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const script = page.querySelector("script");
  script.remove();
  globalThis.rayforceToken = token;
  document.replaceChild(document.adoptNode(page.documentElement), document.documentElement);
  const copy = document.createElement("script"); // a script runs only if it is made here
  [copy.type, copy.textContent] = [script.type, script.textContent];
  document.body.append(copy);
}
