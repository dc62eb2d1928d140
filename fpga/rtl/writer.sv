// The AXI4 write master: outputs, 16 channels at a time, each extended from 18 to 32 bits.
//
// An entry has the address in beats, how many beats (1, 2 or 4) and 16 numbers. Entries that follow
// each other in memory, in one stretch of 256 bytes, become one burst. It is closed by an entry
// that does not continue it, or where the bus has nothing else to do.
// `halt` stops new bursts; one that is begun is completed with no byte enabled, until `quiet`.
module writer #(
    parameter int unsigned DEPTH = 512,  // entries that wait
    parameter int unsigned OPEN = 8      // bursts without an answer, at most
) (
    input  logic         clk,
    input  logic         rst,
    input  logic         halt,
    output logic         quiet,
    output logic         error,    // a cycle: an answer was not OKAY
    output logic         waiting,  // the bus owes a handshake, and there is none in this cycle

    input  logic         push,
    input  logic [35:0]  push_address,
    input  logic [2:0]   push_beats,
    input  logic [287:0] push_values,
    output logic         room,     // for what a pipeline of 64 cycles may still bring
    output logic         written,  // a cycle: a beat went out

    output logic         m_axi_awvalid,
    input  logic         m_axi_awready,
    output logic [39:0]  m_axi_awaddr,
    output logic [7:0]   m_axi_awlen,
    output logic         m_axi_wvalid,
    input  logic         m_axi_wready,
    output logic [127:0] m_axi_wdata,
    output logic [15:0]  m_axi_wstrb,
    output logic         m_axi_wlast,
    input  logic         m_axi_bvalid,
    output logic         m_axi_bready,
    input  logic [1:0]   m_axi_bresp
);
  localparam int unsigned BITS = $clog2(DEPTH);
  localparam int unsigned OPEN_BITS = $clog2(OPEN + 1);

  logic clear;
  assign clear = rst || halt;

  // 1: does an entry continue the one before?
  logic push_1, joins_1;
  logic [35:0] address_1;
  logic [2:0] beats_1;
  always_ff @(posedge clk) begin
    push_1 <= push && !clear;
    if (push) begin
      address_1 <= push_address;
      beats_1 <= push_beats;
      joins_1 <= push_beats == beats_1 && push_address[35:4] == address_1[35:4]
                 && {1'b0, push_address[3:0]} == {1'b0, address_1[3:0]} + 5'(beats_1);
    end
  end

  // 2: the burst that grows.
  logic growing, close, starved;
  logic [35:0] start;
  logic [3:0] more;  // beats beyond the first one
  logic [2:0] size;   // beats of its entries
  assign close = growing && (push_1 ? !joins_1 : starved);
  always_ff @(posedge clk) begin
    if (clear) growing <= 1'b0;
    else growing <= push_1 || (growing && !close);
    if (push_1) begin
      more <= more + 4'(beats_1);
      if (!growing || !joins_1) begin
        start <= address_1;
        more <= 4'(beats_1) - 4'd1;
        size <= beats_1;
      end
    end
  end

  logic unused_valid, burst_valid, take, next;
  logic [287:0] values;
  logic [35:0] burst_address;
  logic [3:0] burst_more;
  logic [2:0] burst_size;
  logic [BITS:0] entry_count, burst_count;
  fifo #(.WIDTH(288), .DEPTH(DEPTH)) entries (
      .clk,
      .rst(clear),
      .push,
      .in(push_values),
      .valid(unused_valid),
      .out(values),
      .pop(next),
      .count(entry_count)
  );
  // Each burst has an entry that is not taken yet: there is room for as many.
  fifo #(.WIDTH(43), .DEPTH(DEPTH)) bursts (
      .clk,
      .rst(clear),
      .push(close),
      .in({start, more, size}),
      .valid(burst_valid),
      .out({burst_address, burst_more, burst_size}),
      .pop(take),
      .count(burst_count)
  );
  always_ff @(posedge clk) room <= entry_count < (BITS + 1)'(DEPTH - 64);

  // 3: the bus. The next burst begins in the cycle in which the last beat of this one goes.
  logic [287:0] left;
  logic [2:0] beats, beats_left;  // of the entry
  logic [3:0] burst_left;  // beyond the present beat
  logic [OPEN_BITS-1:0] open;  // bursts without an answer
  assign take = burst_valid && !clear && open != OPEN_BITS'(OPEN)
                && (!m_axi_awvalid || m_axi_awready)
                && (!m_axi_wvalid || (m_axi_wready && m_axi_wlast));
  assign starved = burst_count == '0 && open != OPEN_BITS'(OPEN) && !m_axi_awvalid
                   && !m_axi_wvalid;
  assign next = take || (written && beats_left == 3'd1 && !m_axi_wlast);
  assign m_axi_wlast = burst_left == '0;
  assign written = m_axi_wvalid && m_axi_wready;
  assign m_axi_bready = 1'b1;

  genvar i;
  generate
    for (i = 0; i < 4; i = i + 1) begin : g_value
      assign m_axi_wdata[32*i+:32] = {{14{left[18*i+17]}}, left[18*i+:18]};
    end
  endgenerate

  always_ff @(posedge clk) begin
    if (rst) begin
      m_axi_awvalid <= 1'b0;
      m_axi_wvalid <= 1'b0;
      m_axi_wstrb <= '0;
      open <= '0;
      error <= 1'b0;
    end else begin
      if (take) m_axi_awvalid <= 1'b1;
      else if (m_axi_awready) m_axi_awvalid <= 1'b0;
      if (take) m_axi_wvalid <= 1'b1;
      else if (written && m_axi_wlast) m_axi_wvalid <= 1'b0;
      // A payload that waits for its handshake stays as it is.
      if (take) m_axi_wstrb <= '1;
      else if (written && halt) m_axi_wstrb <= '0;
      open <= open + OPEN_BITS'(take) - OPEN_BITS'(m_axi_bvalid);
      error <= m_axi_bvalid && m_axi_bresp != 2'd0;
    end
  end
  always_ff @(posedge clk) begin
    if (take) begin
      m_axi_awaddr <= {burst_address, 4'd0};
      m_axi_awlen <= {4'd0, burst_more};
      burst_left <= burst_more;
      beats <= burst_size;
    end else if (written) burst_left <= burst_left - 4'd1;
    if (next) begin
      left <= values;
      beats_left <= take ? burst_size : beats;
    end else if (written) begin
      left <= {72'd0, left[287:72]};
      beats_left <= beats_left - 3'd1;
    end
  end

  assign quiet = !push_1 && !growing && entry_count == '0 && burst_count == '0 && !m_axi_awvalid
                 && !m_axi_wvalid && open == '0;
  assign waiting = (m_axi_awvalid || m_axi_wvalid || open != '0)
                   && !(m_axi_awvalid && m_axi_awready) && !written && !m_axi_bvalid;
endmodule
