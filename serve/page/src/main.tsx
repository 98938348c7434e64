import { render } from "preact";
import { App } from "./app";
import { begin } from "./state";
import "./base.css";
import "./form.css";
import "./result.css";
import "./viewer.css";

render(<App />, document.getElementById("page")!);
void begin();
