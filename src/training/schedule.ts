/** Learning rates: linear warm-up, then half a cosine down to the minimum (paper section 3.4). */
import { z } from "zod";

export const scheduleSchema = z.strictObject({
  peak: z.number().positive(),
  minimum: z.number().nonnegative().default(0),
  warmupSteps: z.int().nonnegative().default(0),
  /** The rate of the first warm-up step. */
  warmupStart: z.number().nonnegative().default(0),
  /** Length of the whole schedule, when a run ends before its rate has come down; the run's steps when absent. */
  scheduleSteps: z.int().positive().optional(),
});

export type Schedule = z.infer<typeof scheduleSchema>;

/**
 * The rate of step `step` (from 0) of `steps`: the peak right after warm-up, the minimum in the last step of the
 * schedule.
 */
export function learningRate(schedule: Schedule, step: number, steps: number): number {
  const { peak, minimum, warmupSteps, warmupStart, scheduleSteps = steps } = schedule;
  if (step < warmupSteps) return warmupStart + ((peak - warmupStart) * step) / warmupSteps;
  const progress = (step - warmupSteps) / Math.max(1, scheduleSteps - 1 - warmupSteps);
  return minimum + (peak - minimum) * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, progress)));
}
