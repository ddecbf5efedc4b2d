#!/usr/bin/env node
/** The `blip2` command. */
import { runProcess } from "./process.js";

await runProcess();
