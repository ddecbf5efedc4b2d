/** The device that Node has. Layers that shall run in a browser are given one; only who opens models and runs imports this. */
import type { Device, DeviceOptions } from "./device.js";
import { WorkerDevice } from "./session.js";

export { availableCpus } from "./cpu-count.js";
export { usageReportsAreOn, withoutUsageReports } from "./usage-reports.js";

/** Starts a worker thread. `threads` defaults to the CPUs that this process may use. */
export function openDevice(options: DeviceOptions = {}): Device {
  return WorkerDevice.open(options);
}
