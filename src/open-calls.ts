/** The calls that are under way in an object that can be closed: it lets them finish, and takes no more. */
import { UserError } from "./errors.js";

export class OpenCalls {
  private readonly running = new Set<Promise<unknown>>();
  private closing: Promise<void> | undefined;

  /** Throws a `UserError` once the object is closed or closing. */
  check(): void {
    if (this.closing !== undefined)
      throw new UserError("this model has been closed; load it again to use it");
  }

  /** Runs a call. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    this.check();
    const running = work();
    this.running.add(running);
    try {
      return await running;
    } finally {
      this.running.delete(running);
    }
  }

  /** Waits for the calls under way, whatever becomes of them, then frees; once, however often it is asked. */
  close(free: () => Promise<void>): Promise<void> {
    this.closing ??= Promise.allSettled(this.running).then(free);
    return this.closing;
  }
}
