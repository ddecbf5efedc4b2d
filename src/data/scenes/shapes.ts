/** The drawing of each kind of thing, as SVG in a box from -50 to 50 on both axes. */
import type { Kind } from "./world.js";

/** How one kind is drawn. */
export interface Shape {
  /** Largest turn either way in degrees; 0 for what stands upright. */
  readonly tilt: number;
  /** May be mirrored left to right. */
  readonly mirror: boolean;
  /** The parts in the object's own colour; they inherit fill and outline. */
  readonly body: string;
  /** Small dark or pale parts on top of (or, for wheels and trunks, beside) the body. */
  readonly details: string;
}

const DARK = "#1d1d24";
const PALE = "#fbfbf4";

const dark = (parts: string): string => `<g fill="${DARK}" stroke="none">${parts}</g>`;
const pale = (parts: string): string => `<g fill="${PALE}" stroke="${DARK}" stroke-width="3">${parts}</g>`;

/** Corner points of a star-like outline, the first one at the top. */
function spikes(count: number, outer: number, inner: number, centerY: number): string {
  const points: string[] = [];
  for (let i = 0; i < 2 * count; i++) {
    const angle = (Math.PI * i) / count - Math.PI / 2;
    const radius = i % 2 === 0 ? outer : inner;
    points.push(
      `${(radius * Math.cos(angle)).toFixed(1)},${(centerY + radius * Math.sin(angle)).toFixed(1)}`,
    );
  }
  return points.join(" ");
}

function petals(count: number, distance: number, radius: number): string {
  const parts: string[] = [];
  for (let i = 0; i < count; i++) {
    const angle = (2 * Math.PI * i) / count - Math.PI / 2;
    const x = (distance * Math.cos(angle)).toFixed(1);
    const y = (distance * Math.sin(angle)).toFixed(1);
    parts.push(`<circle cx="${x}" cy="${y}" r="${radius}"/>`);
  }
  return parts.join("");
}

export const SHAPES: { readonly [K in Kind]: Shape } = {
  circle: { tilt: 0, mirror: false, body: `<circle r="46"/>`, details: "" },
  square: { tilt: 8, mirror: false, body: `<rect x="-42" y="-42" width="84" height="84"/>`, details: "" },
  triangle: { tilt: 8, mirror: false, body: `<polygon points="0,-47 49,42 -49,42"/>`, details: "" },
  star: { tilt: 12, mirror: false, body: `<polygon points="${spikes(5, 52, 21, 4)}"/>`, details: "" },
  heart: {
    tilt: 10,
    mirror: false,
    body: `<path d="M0,46 C-20,28 -50,8 -48,-18 C-46,-48 -10,-50 0,-22 C10,-50 46,-48 48,-18 C50,8 20,28 0,46 Z"/>`,
    details: "",
  },
  cross: {
    tilt: 8,
    mirror: false,
    body: `<path d="M-15,-48 H15 V-15 H48 V15 H15 V48 H-15 V15 H-48 V-15 H-15 Z"/>`,
    details: "",
  },
  ring: {
    tilt: 0,
    mirror: false,
    body: `<path fill-rule="evenodd" d="M-47,0 A47,47 0 1 0 47,0 A47,47 0 1 0 -47,0 Z M-23,0 A23,23 0 1 0 23,0 A23,23 0 1 0 -23,0 Z"/>`,
    details: "",
  },
  moon: {
    tilt: 15,
    mirror: true,
    body: `<path d="M20,-46 A48,48 0 1 0 20,46 A56,56 0 0 1 20,-46 Z"/>`,
    details: "",
  },
  house: {
    tilt: 0,
    mirror: false,
    body: `<rect x="-36" y="-8" width="72" height="54"/><polygon points="0,-49 50,-6 -50,-6"/>`,
    details:
      dark(`<rect x="-24" y="12" width="20" height="34"/>`) +
      pale(`<rect x="7" y="8" width="20" height="18"/>`),
  },
  tree: {
    tilt: 0,
    mirror: false,
    body: `<polygon points="0,-50 26,-16 15,-16 37,10 22,10 44,32 -44,32 -22,10 -37,10 -15,-16 -26,-16"/>`,
    details: dark(`<rect x="-8" y="33" width="16" height="17"/>`),
  },
  car: {
    tilt: 0,
    mirror: true,
    body: `<path d="M-50,24 V-2 L-30,-8 L-20,-34 H20 L34,-8 L50,0 V24 Z"/>`,
    details:
      pale(`<path d="M-14,-26 H0 V-8 H-20 Z"/><path d="M8,-26 H16 L24,-8 H8 Z"/>`) +
      dark(`<circle cx="-25" cy="25" r="15"/><circle cx="25" cy="25" r="15"/>`) +
      `<g fill="${PALE}"><circle cx="-25" cy="25" r="5"/><circle cx="25" cy="25" r="5"/></g>`,
  },
  fish: {
    tilt: 10,
    mirror: true,
    body: `<polygon points="14,0 49,-30 42,0 49,30"/><ellipse cx="-10" cy="0" rx="39" ry="27"/>`,
    details: pale(`<circle cx="-30" cy="-7" r="7"/>`) + dark(`<circle cx="-31" cy="-7" r="3.5"/>`),
  },
  cat: {
    tilt: 0,
    mirror: false,
    body: `<path d="M-42,-48 L-14,-30 H14 L42,-48 L45,8 C45,34 24,46 0,46 C-24,46 -45,34 -45,8 Z"/>`,
    details:
      pale(`<circle cx="-19" cy="-2" r="10"/><circle cx="19" cy="-2" r="10"/>`) +
      dark(
        `<circle cx="-19" cy="-2" r="5"/><circle cx="19" cy="-2" r="5"/><polygon points="-8,16 8,16 0,26"/>`,
      ),
  },
  boat: {
    tilt: 6,
    mirror: true,
    body: `<path d="M-50,18 H50 L32,46 H-32 Z"/><polygon points="5,-48 44,10 5,10"/><polygon points="-5,-34 -5,10 -34,10"/>`,
    details: dark(`<rect x="-2.5" y="-50" width="5" height="68"/>`),
  },
  cup: {
    tilt: 0,
    mirror: true,
    body: `<path fill-rule="evenodd" d="M22,-22 H32 C54,-22 54,24 24,24 L22,12 C38,12 38,-10 22,-10 Z"/><path d="M-46,-38 H26 L18,44 H-38 Z"/>`,
    details: `<ellipse cx="-10" cy="-37" rx="36" ry="9" fill="${PALE}" stroke="${DARK}" stroke-width="4"/>`,
  },
  flower: {
    tilt: 20,
    mirror: false,
    body: petals(5, 29, 21),
    details: pale(`<circle r="15"/>`),
  },
};
