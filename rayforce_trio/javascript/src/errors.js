/** An error with a code: the engine's, the server's, or one of this client, which the guide lists. */
export class RayforceError extends Error {
  constructor(code, message = "", options) {
    super(message || code, options);
    this.name = "RayforceError";
    this.code = code;
  }
}
